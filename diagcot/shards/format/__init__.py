"""The format of a shard: its layout, the HDF5 file, and its header, which is checked against the layout."""
