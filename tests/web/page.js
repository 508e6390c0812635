// Shows what the recordings compute in this browser, and how fast. With `?report` in the address it does so at once and
// sends the lines to the server, with `?report&bench` those of the benchmarks too.

import { Player, load, open } from "./replay.js";

const BENCHMARK_SECONDS = 0.3;

const show = (id, text) => (document.getElementById(id).textContent = text);

// A variant as people read it.
const label = ({ kernel, flags }) => [kernel, ...flags].join(" ");

const shadersOf = ({ steps }) => [...new Set(steps.filter((step) => "shader" in step).map((step) => step.shader))];

function tabulate(id, headings, rows) {
  const row = (cells, kind) => {
    const line = document.createElement("tr");
    line.append(...cells.map((cell) => Object.assign(document.createElement(kind), { textContent: cell })));
    return line;
  };
  document.getElementById(id).replaceChildren(row(headings, "th"), ...rows.map((cells) => row(cells, "td")));
}

// Compiles every variant and runs every case; what comes of it, by variant and in all.
async function compareAll(player, bundle) {
  const rows = new Map();
  const at = (index) => {
    const key = label(bundle.shaders[index]);
    const { kernel } = bundle.shaders[index];
    if (!rows.has(key)) rows.set(key, { key, kernel, compiled: 0, passed: 0, failed: 0, skipped: 0 });
    return rows.get(key);
  };
  const total = { passed: 0, failed: 0, skipped: 0 };
  const notes = [];
  // `check` is for the variants `indices`: it throws, or returns a list with null for what passes.
  const count = async (what, indices, column, check) => {
    const lacking = indices.flatMap((index) => player.missing(index));
    if (lacking.length > 0) {
      notes.push(`SKIP ${what}: the adapter lacks ${[...new Set(lacking)].join(", ")}`);
      total.skipped += 1;
      for (const row of new Set(indices.map(at))) row.skipped += 1;
      return;
    }
    for (const difference of await check().catch((error) => [error.message])) {
      if (difference !== null) notes.push(`FAIL ${what}: ${difference}`);
      total[difference === null ? "passed" : "failed"] += 1;
      for (const row of new Set(indices.map(at))) row[difference === null ? column : "failed"] += 1;
    }
  };
  const used = new Set(bundle.cases.flatMap(shadersOf));
  const all = [...bundle.shaders.keys()].filter((index) => bundle.everything || used.has(index));
  // Browsers compile side by side when they are asked for all at once. What fails is told below.
  for (const index of all) if (player.missing(index).length === 0) player.pipeline(index).catch(() => {});
  for (const index of all) {
    const { constants } = bundle.shaders[index];
    const what = [label(bundle.shaders[index]), ...Object.entries(constants).map((pair) => pair.join("="))].join(" ");
    await count(what, [index], "compiled", async () => player.pipeline(index).then(() => [null]));
  }
  for (const recording of bundle.cases) {
    show("state", recording.name);
    await count(recording.name, shadersOf(recording), "passed", () => player.run(recording));
  }
  // A kernel without a case would pass for lack of anything that could fail.
  const kernels = new Set([...used].map((index) => bundle.shaders[index].kernel));
  for (const kernel of bundle.kernels.filter((kernel) => bundle.everything && !kernels.has(kernel))) {
    notes.push(`FAIL ${kernel}: no case uses this kernel`);
    total.failed += 1;
  }
  return { rows: [...rows.values()], total, notes };
}

// Name, time, and what was reached, for each benchmark.
async function timeAll(player, bundle) {
  const rows = [];
  for (const recording of bundle.benchmarks) {
    show("state", recording.name);
    if (shadersOf(recording).some((index) => player.missing(index).length > 0)) continue;
    const seconds = await player.time(recording, BENCHMARK_SECONDS);
    const rate = (amount) => (amount / seconds / 1e9).toPrecision(3);
    rows.push([recording.name, (1e3 * seconds).toPrecision(3), rate(recording.bytes), rate(recording.flops)]);
  }
  return rows;
}

const NUMBERS = ["compiled", "passed", "failed", "skipped"];
const TIMES = ["operation", "ms", "GB/s", "GFLOP/s"];

async function compareAndShow({ player, bundle, name }) {
  const { rows, total, notes } = await compareAll(player, bundle);
  const cells = rows.map((row) => [row.key, ...NUMBERS.map((column) => row[column])]);
  tabulate("results", ["kernel and variant", ...NUMBERS], cells);
  show("notes", notes.join("\n"));
  const sum = (kernel, column) => rows.reduce((sum, row) => sum + (row.kernel === kernel ? row[column] : 0), 0);
  const run = bundle.kernels.filter((kernel) => rows.some((row) => row.kernel === kernel));
  const line = (kernel) => `${kernel}: ${NUMBERS.map((column) => `${sum(kernel, column)} ${column}`).join(", ")}`;
  const skipped = total.skipped > 0 ? `, ${total.skipped} skipped` : "";
  const verdict = `${total.passed} passed, ${total.failed} failed${skipped}`;
  show("state", verdict);
  return { ...total, lines: [`adapter: ${name}`, ...run.map(line), ...notes, verdict] };
}

async function timeAndShow({ player, bundle }) {
  const rows = await timeAll(player, bundle);
  tabulate("times", TIMES, rows);
  show("state", "measured");
  return [TIMES, ...rows].map((cells) => cells.join("\t"));
}

async function start() {
  const bundle = await load();
  const { device, name } = await open();
  show("adapter", name);
  show("state", `${bundle.cases.length} cases of ${bundle.kernels.length} kernels`);
  device.lost.then(({ message }) => show("state", `the device is lost: ${message}`));
  return { player: new Player(device, bundle), bundle, name };
}

async function report(address) {
  const result = { lines: [], passed: 0, failed: 0 };
  try {
    const page = await start();
    Object.assign(result, await compareAndShow(page));
    if (address.has("bench")) result.lines.unshift(...(await timeAndShow(page)));
  } catch (error) {
    result.failed += 1;
    result.lines.push(`FAIL ${error.message}`);
  }
  await fetch("report", { method: "POST", body: JSON.stringify(result) });
}

// A button works while nothing else does.
function offer(page) {
  const buttons = [...document.querySelectorAll("button")];
  for (const [id, work] of [["compare", compareAndShow], ["time", timeAndShow]]) {
    document.getElementById(id).onclick = async () => {
      for (const button of buttons) button.disabled = true;
      await work(page).catch((error) => show("state", error.message));
      for (const button of buttons) button.disabled = false;
    };
  }
  for (const button of buttons) button.disabled = false;
}

const address = new URLSearchParams(location.search);
if (address.has("report")) {
  await report(address);
} else {
  start().then(offer, (error) => show("state", error.message));
}
