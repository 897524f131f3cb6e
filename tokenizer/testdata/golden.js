// Fills in what the Hugging Face tokenizers library says of the texts in the
// given golden files, in place:
//
//	npm install --ignore-scripts tokenizers@0.23.2
//	node golden.js golden/*.json
//
// A golden file has a tokenizer, or the name of a gzipped file that holds one,
// and cases. Of each case text and special (whether to add special tokens) are
// given; ids, offsets (in code points) and what the ids decode to with all
// tokens and without the special ones are filled in.
const fs = require('fs');
const path = require('path');
const zlib = require('zlib');
const { Tokenizer } = require('tokenizers');

async function fill(name) {
  const golden = JSON.parse(fs.readFileSync(name));
  const json = golden.file
    ? zlib.gunzipSync(fs.readFileSync(path.join(path.dirname(name), golden.file))).toString()
    : JSON.stringify(golden.tokenizer);
  const tokenizer = Tokenizer.fromString(json);
  for (const c of golden.cases) {
    const e = await tokenizer.encode(c.text, null, { addSpecialTokens: c.special });
    c.ids = e.getIds();
    c.offsets = e.getOffsets();
    c.decoded = await tokenizer.decode(c.ids, false);
    c.skipped = await tokenizer.decode(c.ids, true);
  }
  const head = golden.file ? `"file": ${JSON.stringify(golden.file)}` : `"tokenizer": ${JSON.stringify(golden.tokenizer)}`;
  const cases = golden.cases.map((c) => JSON.stringify(c)).join(',\n');
  fs.writeFileSync(name, `{${head},\n"cases": [\n${cases}\n]}\n`);
}

(async () => {
  for (const name of process.argv.slice(2)) await fill(name);
})();
