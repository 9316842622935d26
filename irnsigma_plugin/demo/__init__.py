"""The page of `irnsigma demo`: one photograph, small and restored, at any sigma."""
