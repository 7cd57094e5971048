// The whole course is kept in the browser by sw.js, so that it goes on without a network.

export async function offline(sign) {
  if (!navigator.serviceWorker) {
    sign.textContent = isSecureContext
      ? "This browser cannot keep the course for use without a network."
      : "Over http the course cannot be kept for use without a network; over https it can.";
    return;
  }
  try {
    const registration = await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    sign.textContent = "The course is in this browser: it works without a network.";
    const waiting = () => {
      if (registration.waiting && navigator.serviceWorker.controller)
        sign.textContent = "There is a newer course: close all its pages and open it again.";
    };
    const follow = () => registration.installing?.addEventListener("statechange", waiting);
    registration.addEventListener("updatefound", follow);
    follow(); // it may have begun already
    waiting();
  } catch (error) {
    sign.textContent = `The course could not be kept for use without a network: ${error.message}`;
  }
}
