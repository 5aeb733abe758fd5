"use strict";
// Ask the server every few seconds what has changed, and draw only that.

const RETRY_S = 2;
const OLD_S = 10; // without news for so long, the page says that it is old
const MOST_OPEN = 8; // studies that are opened by themselves
const STATES = [
  ["c", "●", "complete"], ["s", "◇", "stopped"], ["d", "+", "diverged"], ["f", "✕", "failed"],
];
const studies = new Map(); // by name: { data, details, isDrawn }
let token = "";
let clockOffset = 0; // seconds that the server's clock is ahead of this one
let lookedAt = 0;
let expectedEnd = null;
let facts = "";
let fault = "starting";

const byId = (id) => document.getElementById(id);
const percent = (fraction) => (100 * fraction).toFixed(2);
const serverNow = () => Date.now() / 1000 + clockOffset;

// Text of records becomes text nodes only, never HTML.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children.filter((child) => child !== null));
  return element;
}

function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children);
  return element;
}

function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} days ${Math.floor((s % 86400) / 3600)} h`;
}

function timeLeft(end) {
  if (end === null) return "";
  const left = end - serverNow();
  return left < 60 ? "nearly done" : `${duration(left)} left`;
}

// ---- small pictures

function scale(low, high, from, to) {
  const range = high - low || 1;
  return (value) => from + ((value - low) / range) * (to - from);
}

const points = (pairs) => pairs.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");

function mark(state, x, y) {
  const at = (dx, dy) => `${(x + dx).toFixed(1)} ${(y + dy).toFixed(1)}`;
  if (state === "c") return draw("circle", { class: "c", cx: x.toFixed(1), cy: y.toFixed(1), r: 3 });
  const paths = {
    s: `M${at(0, -4)}L${at(4, 0)}L${at(0, 4)}L${at(-4, 0)}Z`,
    d: `M${at(-4, 0)}L${at(4, 0)}M${at(0, -4)}L${at(0, 4)}`,
    f: `M${at(-3, -3)}L${at(3, 3)}M${at(-3, 3)}L${at(3, -3)}`,
  };
  return draw("path", { class: state, d: paths[state] });
}

// The scores of all ended trials in the order in which they ended, and the best so far.
function courseOf(data) {
  // As wide as it will be shown, so that its letters are as large as those around it.
  const width = Math.min(520, document.body.clientWidth - 30), height = 190, left = 40, bottom = height - 20;
  const scored = data.scores.map((score, i) => [i, score]).filter(([i, score]) => score !== null && "cs".includes(data.states[i]));
  const values = scored.map(([, score]) => score);
  const low = Math.min(...values), high = Math.max(...values);
  const x = scale(0, Math.max(1, data.scores.length - 1), left + 6, width - 8);
  const y = scale(low, high, bottom - 12, 12);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Scores of ${data.ended} trials of ${data.name}` });
  svg.append(draw("path", { class: "axis", d: `M${left} 4V${bottom}H${width}` }));
  if (values.length) {
    svg.append(draw("text", { x: 0, y: y(high) + 4 }, percent(high)));
    if (y(low) - y(high) > 14) svg.append(draw("text", { x: 0, y: y(low) + 4 }, percent(low)));
  }
  svg.append(draw("text", { x: left, y: height - 4 }, "trials in the order of their end"));
  let best = null;
  const steps = [];
  data.scores.forEach((score, i) => {
    if (data.states[i] === "c" && score !== null && (best === null || score > best)) {
      if (best !== null) steps.push([x(i), y(best)]);
      steps.push([x(i), y(score)]);
      best = score;
    }
  });
  if (best !== null) {
    steps.push([x(data.scores.length - 1), y(best)]);
    svg.append(draw("polyline", { class: "best", points: points(steps) }));
  }
  data.scores.forEach((score, i) => {
    const hasPlace = score !== null && "cs".includes(data.states[i]);
    svg.append(mark(data.states[i], x(i), hasPlace ? y(score) : bottom));
  });
  return svg;
}

// One training's validations; dotted: the best complete trial of the study.
function curveOf(running, data) {
  const width = 200, height = 64;
  const best = data.best === null ? [] : [data.best.score];
  const values = [...running.curve.map(([, score]) => score), ...best];
  const steps = running.curve.map(([step]) => step);
  const x = scale(Math.min(...steps), Math.max(...steps, data.max_steps ?? 0), 4, width - 4);
  const y = scale(Math.min(...values), Math.max(...values), height - 6, 6);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Validation MAP@R of ${running.title}` });
  svg.append(draw("path", { class: "axis", d: `M0 ${height - 1}H${width}` }));
  best.forEach((score) => svg.append(draw("path", { class: "target", d: `M0 ${y(score)}H${width}` })));
  const places = running.curve.map(([step, score]) => [x(step), y(score)]);
  svg.append(draw("polyline", { class: "curve", points: points(places) }));
  if (places.length) svg.append(mark("c", ...places[places.length - 1]));
  return svg;
}

// ---- one study

function sayStage(data) {
  return (data.stage === "running" && timeLeft(data.expected_end)) || data.stage;
}

function stageOf(data) {
  return make("span", { class: `stage ${data.stage}`, "data-stage": data.name }, sayStage(data));
}

function listOf(pairs) {
  return make("dl", {}, ...Object.entries(pairs).flatMap(([name, value]) => [make("dt", {}, name), make("dd", { class: "number" }, value)]));
}

function describeTraining(running, data) {
  const what = running.score === null ? "begun" : "last report";
  const epochs = data.max_epochs ? `epoch ${running.epoch} of at most ${data.max_epochs}` : `epoch ${running.epoch}`;
  const isPart = running.folds && data.folds && running.folds < data.folds;
  const folds = isPart ? `, ${running.folds} of ${data.folds} folds` : "";
  const waits = running.waits ? ", waits at its rung" : "";
  const score = running.score === null ? "no validation yet" : `MAP@R ${percent(running.score)}`;
  const parameters = Object.entries(running.parameters).map(([name, value]) => `${name} ${value}`).join(", ");
  const since = make("span", { class: running.silent ? "silent" : "soft", "data-what": what, "data-since": running.changed_at });
  return make("figure", {},
    make("figcaption", {}, make("b", {}, running.title), score),
    running.curve.length ? curveOf(running, data) : null,
    make("figcaption", { class: "soft" }, `${epochs}${folds}${waits}, `, since),
    make("figcaption", { class: "soft" }, parameters, running.origin ? ` (${running.origin})` : ""));
}

function describeFailure(failure) {
  return make("div", { class: "failure" },
    make("b", {}, `${failure.name} ${failure.state}: `), failure.reason,
    failure.log.length ? make("pre", {}, failure.log.join("\n")) : null);
}

function reportLink(data) {
  const address = `/report/${data.name.split("/").map(encodeURIComponent).join("/")}`;
  return make("p", {}, make("a", { href: address, target: "_blank", rel: "noopener" }, "Full report of this study"),
    make("span", { class: "soft" }, ", made when you open it, which takes some seconds"));
}

function fillStudy(data) {
  const parts = [];
  data.notes.forEach((note) => parts.push(make("p", { class: "soft" }, note)));
  data.problems.forEach((problem) => parts.push(make("p", { class: "problem" }, problem)));
  if (data.stage === "unreadable") return parts;
  const counts = STATES.map(([, , word]) => [word, data.counts[word] ?? 0]).filter(([, count]) => count);
  const table = { trials: `${data.ended} of ${data.budget}` };
  if (counts.length) table["how they ended"] = counts.map(([word, count]) => `${count} ${word}`).join(", ");
  table["final runs tested"] = `${data.tested}`;
  table.used = data.device_time;
  const facts = make("div", {}, make("h3", {}, "Best trial"));
  if (data.best === null) facts.append(make("p", { class: "soft" }, "No trial is complete yet."));
  else facts.append(listOf({ trial: data.best.trial, "MAP@R": `${percent(data.best.score)} %`, ...data.best.parameters }));
  facts.append(make("h3", {}, "Budget"), listOf(table), reportLink(data));
  const course = make("div", {}, make("h3", {}, "Course of the search"));
  if (data.ended) {
    const key = STATES.filter(([, , word]) => data.counts[word]).flatMap(([letter, sign, word]) => [make("i", { class: letter }, sign), ` ${word}  `]);
    course.append(courseOf(data), make("p", { class: "key" }, ...key, "— best so far; validation MAP@R, %"));
  } else course.append(make("p", { class: "soft" }, "No trial has ended yet."));
  parts.push(make("div", { class: "columns" }, facts, course));
  if (data.running.length) {
    const heading = data.stage === "running" ? "At work" : "Begun, and waiting for the next launch";
    parts.push(make("h3", {}, heading), make("div", { class: "trainings" }, ...data.running.map((running) => describeTraining(running, data))));
    if (data.best !== null && data.running.some(({ curve }) => curve.length)) parts.push(make("p", { class: "key" }, "Each picture: validation MAP@R by epoch; dotted: the best complete trial."));
  }
  if (data.failures.length) {
    const heading = data.failed > data.failures.length ? `Failed or diverged, the latest of ${data.failed}` : "Failed or diverged";
    parts.push(make("h3", {}, heading), ...data.failures.map(describeFailure));
  }
  return parts;
}

function drawStudy(study) {
  const { data, details } = study;
  const best = data.best === null ? "" : `best ${percent(data.best.score)} %, `;
  details.querySelector("summary").replaceChildren(make("b", {}, data.name), make("span", { class: "facts number" },
    `${best}${data.ended}/${data.budget} trials, `, stageOf(data)));
  study.isDrawn = details.open;
  details.lastElementChild.replaceChildren(...(details.open ? fillStudy(data) : []));
}

function addStudy(data, isOpen) {
  const details = make("details", { class: "study", id: data.name }, make("summary"), make("div"));
  details.open = isOpen;
  const study = { data, details, isDrawn: false };
  details.addEventListener("toggle", () => {
    if (details.open !== study.isDrawn) {
      drawStudy(study);
      tick();
    }
  });
  studies.set(data.name, study);
}

// ---- all studies

function drawRow(data, isFirst) {
  const bar = make("progress", { max: Math.max(1, data.budget), value: data.ended, "aria-label": "trials that have ended" });
  const link = make("a", { href: `#${data.name}` }, data.row);
  link.addEventListener("click", () => { studies.get(data.name).details.open = true; });
  return make("tr", isFirst ? { class: "first" } : {},
    make("td", { class: "row" }, link),
    make("td", { class: "score" }, data.best === null ? "-" : percent(data.best.score)),
    make("td", { class: "trials" }, bar, `${data.ended}/${data.budget}`),
    make("td", { class: "now" }, stageOf(data)));
}

function drawBest() {
  const groups = new Map();
  studies.forEach(({ data }) => groups.set(data.group, [...(groups.get(data.group) ?? []), data]));
  const tables = [...groups].map(([group, members]) => {
    members.sort((a, b) => (b.best?.score ?? -1) - (a.best?.score ?? -1) || a.name.localeCompare(b.name));
    const isRace = members.filter((data) => data.best !== null).length > 1;
    return make("table", {}, make("caption", {}, group),
      make("thead", {}, make("tr", {}, ...["row", "best MAP@R", "trials", "now"].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...members.map((data, i) => drawRow(data, isRace && i === 0))));
  });
  byId("groups").replaceChildren(...tables);
  byId("best").hidden = !studies.size;
}

function drawOverall(overall, progress) {
  if (overall.headline === undefined) {
    byId("facts").textContent = progress && progress[1] ? `${progress[0]} of ${progress[1]} studies read` : "";
    return;
  }
  byId("verdict").className = overall.mood;
  byId("headline").textContent = overall.headline;
  document.title = overall.headline;
  expectedEnd = overall.expected_end;
  facts = overall.facts;
  byId("concerns").replaceChildren(...overall.concerns.map((line) => make("li", {}, line)));
  byId("concerns").hidden = !overall.concerns.length;
}

function sortStudies(names) {
  const container = byId("studies");
  names.forEach((name, i) => {
    const { details } = studies.get(name);
    if (container.children[i] !== details) container.insertBefore(details, container.children[i] ?? null);
  });
}

function update(answer) {
  clockOffset = answer.now - Date.now() / 1000;
  lookedAt = answer.looked_at;
  fault = answer.fault;
  byId("run-root").textContent = answer.run_root;
  const here = new Set(answer.names);
  const gone = [...studies.keys()].filter((name) => !here.has(name));
  gone.forEach((name) => {
    studies.get(name).details.remove();
    studies.delete(name);
  });
  answer.changed.forEach((data) => {
    const opened = [...studies.values()].filter(({ details }) => details.open).length;
    if (studies.has(data.name)) studies.get(data.name).data = data;
    else addStudy(data, opened < MOST_OPEN && (data.stage === "running" || answer.names.length <= MOST_OPEN));
    drawStudy(studies.get(data.name));
  });
  drawOverall(answer.overall, answer.progress);
  if (answer.changed.length || gone.length) {
    sortStudies(answer.names);
    drawBest();
  }
  token = answer.token;
}

// What changes with time alone.
function tick() {
  const age = serverNow() - lookedAt;
  const isOld = fault !== "" || (lookedAt > 0 && age > OLD_S);
  const said = lookedAt > 0 ? `looked ${duration(age)} ago` : "reading the records";
  byId("age").textContent = fault === "starting" ? said : fault ? `${fault}; ${said}` : said;
  byId("age").classList.toggle("old", isOld && fault !== "starting");
  byId("facts").textContent = facts ? [facts, timeLeft(expectedEnd)].filter(Boolean).join(", ") : byId("facts").textContent;
  document.querySelectorAll("[data-since]").forEach((element) => {
    element.textContent = `${element.dataset.what} ${duration(serverNow() - element.dataset.since)} ago`;
  });
  document.querySelectorAll("[data-stage]").forEach((element) => {
    const data = studies.get(element.dataset.stage)?.data;
    if (data) element.textContent = sayStage(data);
  });
}

async function follow() {
  let wait = RETRY_S;
  try {
    const answer = await fetch(`/changes?since=${token}`, { signal: AbortSignal.timeout(15000) });
    if (!answer.ok) throw new Error(await answer.text());
    const content = await answer.json();
    update(content);
    wait = content.interval_s;
  } catch (error) {
    fault = `no answer from launch.py --serve (${error.message})`;
  }
  tick();
  setTimeout(document.hidden ? waitUntilSeen : follow, 1000 * wait);
}

function waitUntilSeen() {
  if (!document.hidden) follow();
  else document.addEventListener("visibilitychange", waitUntilSeen, { once: true });
}

setInterval(tick, 1000);
follow();
