"""Filtration of traces by rules and a judge, and the training samples made of them."""
