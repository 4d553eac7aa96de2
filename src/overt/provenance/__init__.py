"""How an artefact was made, and making it again: recipes, receipts, jobs, replay."""
