"""a checkpoint -> one HTML page that runs the model in any browser, offline, in JavaScript."""
