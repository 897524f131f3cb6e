// Encodes texts as an npm package does:
//
//	NODE_PATH=DIRECTORY/node_modules node compare.js PACKAGE <CASES >RESULTS
//
// PACKAGE is tokenizers or @huggingface/tokenizers. The standard input is a list
// of {tokenizer, texts}, a tokenizer.json and texts; the standard output is, for
// each of them, a list of {ids, decoded, skipped}: the ids of each text, special
// tokens added, and what they decode to with all tokens and without the special
// ones. With no PACKAGE found, the exit status is 3.
const fs = require('fs');

function load(name) {
  let library;
  try {
    library = require(name);
  } catch (error) {
    console.error(error.message);
    process.exit(3);
  }
  if (name === 'tokenizers') {
    return (tokenizer) => {
      const t = library.Tokenizer.fromString(JSON.stringify(tokenizer));
      return async (text) => {
        const ids = (await t.encode(text, null, { addSpecialTokens: true })).getIds();
        return { ids, decoded: await t.decode(ids, false), skipped: await t.decode(ids, true) };
      };
    };
  }
  return (tokenizer) => {
    const t = new library.Tokenizer(tokenizer, { clean_up_tokenization_spaces: false });
    return async (text) => {
      const ids = t.encode(text, { add_special_tokens: true }).ids;
      if (!ids.every(Number.isInteger)) return {}; // it has no id for the unknown
      const decode = (skip) => (ids.length ? t.decode(ids, { skip_special_tokens: skip }) : '');
      return { ids, decoded: decode(false), skipped: decode(true) };
    };
  };
}

(async () => {
  const make = load(process.argv[2]);
  const results = [];
  for (const { tokenizer, texts } of JSON.parse(fs.readFileSync(0, 'utf8'))) {
    const encode = make(tokenizer);
    const list = [];
    for (const text of texts) list.push(await encode(text));
    results.push(list);
  }
  fs.writeFileSync(1, JSON.stringify(results));
})();
