"""RunPod: pods through REST v2, spot pods through GraphQL."""
