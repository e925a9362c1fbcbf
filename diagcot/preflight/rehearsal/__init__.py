"""`make rehearse`: a two-minute job for each stage of a chain, on the user's own cluster, that only checks.

Each job has the stage's real partition, account, environment, size and dependencies. On the node it checks what the stage
will need, and one table lists what would have failed.
"""
