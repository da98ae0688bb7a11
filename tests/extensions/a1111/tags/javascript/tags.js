onUiLoaded(async function () {
    var prompt = gradioApp().querySelector('#txt2img_prompt textarea');
    var answer = await fetch('/tags/all/land').then((r) => r.json());
    prompt.setAttribute('data-tags', answer.tags.join(' '));
});
