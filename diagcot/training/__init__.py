"""Model training: supervised fine-tuning, alignment and GRPO over DeepSpeed ranks.

Subpackages from the bottom up; each imports only from those before it: `config`, `distributed`, `models`, `cost`,
`data`, `losses`, `checkpoint`, `monitoring`, `supervised`, `rl`, `kinds`.
"""
