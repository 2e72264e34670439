"""What a compile found, as `report.json` and as a page.

- `compiled`: what the report is made of;
- `limits`: what the recipe limits, and what a rung came to;
- `layers`: layers that stayed float, with the reason;
- `modalities`: what each modality costs and is worth;
- `search`: candidates, judged combinations and their front;
- `timings`: what else the machine did during each timing;
- `part`: what its records share;
- `judged`: records of how outputs did;
- `schema`: the fields of `report.json`;
- `encoding`: writes and reads it;
- `steps`: sentences about a ladder that was asked for;
- `text`: method and notes in sentences, and the table for the terminal;
- `report`: puts `report.json` together and writes both files;
- `format`: how figures are spelled;
- `tables`: the tables of the page;
- `charts`: the charts of the page;
- `curves`: the recovery curves of the page;
- `html`: the page.
"""
