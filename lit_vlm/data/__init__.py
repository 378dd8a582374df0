"""A LightningDataModule per dataset, the embedded tasks, samplers and collation."""
