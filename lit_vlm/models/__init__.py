"""Backbones: loading, encoding, the teacher-forced and the generating pass, and the bundled tiny VLM."""
