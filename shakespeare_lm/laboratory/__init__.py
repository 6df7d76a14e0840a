"""Is an idea better? Many runs of variants over the same seeds, and what their losses say."""
