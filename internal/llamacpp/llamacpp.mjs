// Answers requests about one model after the other, a line of JSON each, on standard input and output. Its argument is the
// folder of the package node-llama-cpp.
import {createInterface} from "node:readline";
import {performance} from "node:perf_hooks";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const reply = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const {getLlama} = await import(pathToFileURL(join(process.argv[2], "dist", "index.js")).href);
const llama = await getLlama({
    gpu: false, build: "never", skipDownload: true, progressLogs: false, logLevel: "error",
    logger: (level, message) => process.stderr.write(`${level}: ${message}\n`)
});
let model, context, sequence;

const operations = {
    async open({path, contextSize, batchSize, threads, flashAttention, cacheType}) {
        await context?.dispose();
        await model?.dispose();
        model = await llama.loadModel({modelPath: path, gpuLayers: 0, useMmap: true, ignoreMemorySafetyChecks: true});
        context = await model.createContext({
            sequences: 1, contextSize, batchSize, flashAttention, threads: {ideal: threads, min: threads},
            experimentalKvCacheKeyType: cacheType, experimentalKvCacheValueType: cacheType,
            ignoreMemorySafetyChecks: true, failedCreationRemedy: false
        });
        sequence = context.getSequence({contextShift: {strategy: () => { throw new Error("the context is full"); }}});
        return {};
    },

    // The logarithms of the probabilities of all tokens after each of those at some indices.
    async logProbs({tokens, at}) {
        await sequence.clearHistory();
        const ask = {generateNext: {probabilities: true, options: {temperature: 0}}};
        const asked = new Set(at);
        const answers = await sequence.controlledEvaluate(tokens.map((token, i) => asked.has(i) ? [token, ask] : token));
        const size = model.fileInfo.metadata.tokenizer.ggml.tokens.length;
        return {
            logProbs: at.map((i) => {
                const row = new Array(size).fill(null);
                for (const [token, p] of answers[i].next.probabilities)
                    row[token] = Math.log(p);
                return row;
            })
        };
    },

    // The likeliest tokens, one after the other; none ends it.
    async greedy({tokens, count}) {
        await sequence.clearHistory();
        const ask = {generateNext: {token: true, options: {temperature: 0}}};
        const generated = [];
        let input = tokens;
        while (generated.length < count) {
            const answers = await sequence.controlledEvaluate([...input.slice(0, -1), [input.at(-1), ask]]);
            input = [answers.at(-1).next.token];
            generated.push(input[0]);
        }
        return {tokens: generated};
    },

    // The time until the token after tokens is known.
    async prefill({tokens}) {
        await sequence.clearHistory();
        const input = [...tokens.slice(0, -1), [tokens.at(-1), {generateNext: {token: true, options: {temperature: 0}}}]];
        const start = performance.now();
        await sequence.controlledEvaluate(input);
        return {seconds: (performance.now() - start) / 1000};
    }
};

reply({ready: llama.systemInfo});
for await (const line of createInterface({input: process.stdin})) {
    try {
        const {operation, ...request} = JSON.parse(line);
        reply(await operations[operation](request));
    } catch (err) {
        reply({error: String(err?.message ?? err)});
    }
}
process.exit(0);
