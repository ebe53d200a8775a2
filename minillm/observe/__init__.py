"""Looking at minillm from outside: what runs here, and what a run did."""
