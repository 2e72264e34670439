"""Operating points: chosen, judged, timed, and put into bundles.

- `result`: a target's candidates, measured and searched;
- `final`: accuracy on the test split and end-to-end timings;
- `streams`: the steps of modalities that stream;
- `assemble`: manifest and files of a bundle;
- `mixing`: whether a joined target runs in one runtime or in several;
- `rungs`: the rungs of each target: the steps in order.
"""
