"""What differs between model families: one small file each, found by model type; the rest follows ``family.py``."""
