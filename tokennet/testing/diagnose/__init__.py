"""From a break to the statement where it happens and the smallest input that shows it."""
