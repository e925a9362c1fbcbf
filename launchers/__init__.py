"""Turns recipes into chains of jobs: the kinds of stages, and the chain that plans and submits them."""
