"""`make rehearse`: every job of a chain on the user's own cluster, but with a body of two minutes that only looks.

Each stage is submitted with its real partition, account, environment, size and dependencies; on the compute node it
checks what the stage will need, and one table says what would have failed.
"""
