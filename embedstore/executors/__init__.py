"""Who encodes besides this process: workers on the machines of a Ray cluster."""
