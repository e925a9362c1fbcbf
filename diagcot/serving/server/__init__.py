"""Starting, watching and ending model servers."""
