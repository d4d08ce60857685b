"""What Prometheus sees: collectors that read the node when they are scraped, so that nothing is counted twice."""
