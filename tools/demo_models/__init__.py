"""Makes covey's demo models from text that is on this machine; nothing is downloaded.

They demonstrate the plumbing, not quality. Nothing here is imported by covey itself: the finished models lie in
`app/covey/demo_models/`, and this package is only run to make them again.
"""
