"""What makes a recipe learn more from the same text; each joins the model at a seam."""
