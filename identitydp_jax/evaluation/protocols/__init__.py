"""What is measured together: each module has `run(bench) -> Report`."""
