"""Ablation studies: claims about models, tested on several seeds."""
