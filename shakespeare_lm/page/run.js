// Reads a page from its file, runs its worker's code in Node.js, and answers rows of ids, as JSON on
// stdin, by their logits in float32 on stdout: the check of `commands/exported.py`. A second argument
// is an earlier moment, as `Moments` counts them, or "beside" for the other model.
const fs = require("fs");
const html = fs.readFileSync(process.argv[2], "utf-8");
const part = (id) => html.split(`id="${id}">`)[1].split("</script>")[0];
globalThis.onmessage = null;
const all = JSON.parse(part("model"));
const [model, weights] = process.argv[3] === "beside" ? [all.beside, "beside"] : [all, "weights"];
const unpacked = new Function("m", "weights", "earlier",
  part("worker") + "; return new Moments(m.config, unpackWeights(weights, m.manifest), earlier, m.history);");
const moment = Number(process.argv[3]) || 0;
unpacked(model, part(weights), part("earlier")).network(moment).then((network) => {
  const rows = JSON.parse(fs.readFileSync(0, "utf-8"));
  const logits = rows.flatMap((ids) => network.read(network.newCache(), ids, ids.length));
  const bytes = logits.map((one) => Buffer.from(Float32Array.from(one).buffer));
  process.stdout.write(Buffer.concat(bytes));
});
