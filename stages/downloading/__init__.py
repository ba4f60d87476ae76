"""Downloads: clips of links, requested with manners, kept by content, and accounted for link by link."""
