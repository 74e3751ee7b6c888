"""What can go wrong during a run, and what happens then: one file per fault. The user's page is docs/training.md."""
