"""Drawings of simple shapes: images that teach a tiny model to see places and sizes before it sees a chest."""
