"""Files and data: images, run folders, data sets in memory, map files."""
