"""What the paper compares with in section V-E: pixels of aligned faces, no models, no guarantee."""
