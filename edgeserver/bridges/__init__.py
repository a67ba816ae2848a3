"""Application services: bridges to other networks, bots. Spec: application service API."""
