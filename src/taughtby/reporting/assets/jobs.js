// Jobs of the server: submitted, followed and cancelled. A page waits for one at a time.
import { announce, byId, count, plural } from "./text.js";
import { call, errorText, get, showError } from "./requests.js";

let running = null; // {id, cancel}: the job that this page waits for

const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`);

// The speed of a long stage, and the time that it still needs.
function pace({ done, of, rate }) {
  const left = rate ? (of - done) / rate : 0;
  if (left < 5) return "";
  return `, ${rate < 1 ? `${(1 / rate).toFixed(1)} s each` : `${rate.toFixed(1)} a second`}, ${duration(left)} left`;
}

function drawJob(job) {
  byId("job").hidden = !job;
  if (!job) return;
  const [label, bar] = [byId("job").querySelector("p"), byId("job").querySelector("progress")];
  const steps = job.of ? `: ${count(job.done)} of ${count(job.of)}${pace(job)}` : "";
  label.textContent = job.state === "waiting" ? `${plural(job.ahead, "job")} before yours` : `${job.stage || "starting"}${steps}`;
  if (job.of) [bar.max, bar.value] = [job.of, job.done];
  else bar.removeAttribute("value");
}

export const delay = (time) => new Promise((done) => { setTimeout(done, time); });

// Submit a job and wait for it; null if it was cancelled or failed, which is shown.
export async function runJob(path, body, doing = "Tracing") {
  return wait(async () => (await call("POST", path, body)).json(), doing);
}

// Wait for a job that was submitted before the page was loaded.
export const resumeJob = (id, doing) => wait(() => get(`api/jobs/${id}`), doing);

async function wait(submit, doing) {
  showError(running ? new Error("One job runs at a time. Wait for it, or cancel it.") : null);
  if (running) return null;
  try {
    let job = await submit();
    const cancelled = new Promise((resolve) => { running = { id: job.id, cancel: () => resolve({ state: "cancelled" }) }; });
    announce(doing);
    for (let pause = 100; job.state === "waiting" || job.state === "running"; pause = Math.min(1000, pause * 1.3)) {
      drawJob(job);
      const { id } = job;
      const next = delay(pause).then(() => (running?.id === id ? get(`api/jobs/${id}`) : null)); // no request after cancelling
      next.catch(() => {}); // its error is shown unless the job was cancelled
      job = await Promise.race([next, cancelled]);
    }
    if (job.state === "failed") throw new Error(errorText(job.error));
    return job.state === "done" ? job : null;
  } catch (error) {
    showError(error);
    return null;
  } finally {
    running = null;
    drawJob(null);
  }
}

// The page stops waiting at once; the work ends when it next reports its progress.
function onCancel() {
  if (!running) return;
  call("DELETE", `api/jobs/${running.id}`).catch(showError);
  running.cancel();
  announce("Cancelled");
}

export function wireJobs() {
  byId("job").querySelector("button").addEventListener("click", onCancel);
}
