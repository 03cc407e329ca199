// Talking to the server: every request carries the token of this start.
const token = new URLSearchParams(location.search).get("token") || "";

export async function call(method, path, body) {
  const options = { method, headers: { "X-Token": token } };
  if (body instanceof Blob) options.body = body;
  else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const answer = await fetch(`/api/${path}`, options);
  const data = answer.headers.get("content-type")?.includes("json") ? await answer.json() : null;
  if (!answer.ok) throw new Error(data?.error || `${answer.status} ${answer.statusText}`);
  return data;
}

export async function image(path) {
  const answer = await fetch(`/api/${path}`, { headers: { "X-Token": token } });
  if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`);
  return createImageBitmap(await answer.blob());
}

// Events of the worker and of other pages; a lost connection is taken up again.
export function listen(take) {
  const socket = new WebSocket(`ws://${location.host}/api/events?token=${encodeURIComponent(token)}`);
  socket.onmessage = (event) => take(JSON.parse(event.data));
  socket.onclose = () => setTimeout(() => listen(take), 1000);
}
