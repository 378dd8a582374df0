"""What the parts promise each other: records that flow, roles that recipes fill, protocols that callbacks ask for."""
