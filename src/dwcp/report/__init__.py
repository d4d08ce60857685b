"""What a node has done in a day or a week, from its transaction log, as a page for people who were not there."""
