"""a checkpoint and a prompt -> text: needs torch but not Lightning, so it starts fast."""
