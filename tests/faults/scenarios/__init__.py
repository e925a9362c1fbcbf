"""Work that tests.faults.points disturbs at every file operation."""
