# docker build -t distillctl . && docker run --rm distillctl train recipe=smoke
# With a folder of photos, and runs that stay:
#   docker run --rm -v "$PWD:/work" distillctl train dataset=image_folder dataset.root=photos
FROM python:3.12-slim
COPY . /opt/distillctl
RUN pip install --no-cache-dir /opt/distillctl && useradd --create-home distillctl && install -d -o distillctl /work
USER distillctl
WORKDIR /work
ENTRYPOINT ["distillctl"]
CMD ["--help"]
