"""Pure tensor and numeric functions that several parts share."""
