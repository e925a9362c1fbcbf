"""Terminal screens. They read run directories and import neither torch nor the domain."""
