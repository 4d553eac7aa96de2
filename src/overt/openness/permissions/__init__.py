"""What a licence allows: clauses, facts of a use, and the answer."""
