"""The user's own data: files of records, read at random, and what their conventions mean."""
