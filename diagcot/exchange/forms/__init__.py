"""How a row of a file holds a conversation: one module for each form."""
