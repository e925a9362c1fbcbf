"""What the processes of a run start from: its copy of the code, and its variables."""
