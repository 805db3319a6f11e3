"""Plumbing shared by the notebooks: problems, models, sandbox, scoring, runs, lexicon, figures. No method code here."""
