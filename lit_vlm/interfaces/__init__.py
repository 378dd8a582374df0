"""What the parts of lit-vlm promise each other: records that flow, roles that recipes fill, protocols callbacks ask for."""
