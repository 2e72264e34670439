// The backend `tflite` for tests: stages run in another process, which `stage_server.py` is (it tells how both talk).
// LiteRT's headers are not among what the tests can fetch; an app links LiteRT and writes a file like onnx_stage.cpp.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "bundle.hpp"
#include "stage_file.hpp"

namespace edgefuse {
namespace {

class Server {
 public:
  Server() {
    const char* python = std::getenv("STAGE_SERVER_PYTHON");
    const char* script = std::getenv("STAGE_SERVER");
    int to[2], from[2];
    if (!python || !script || pipe(to) || pipe(from)) throw Error("the server of stages cannot be started");
    if (fork() == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      for (const int end : {to[0], to[1], from[0], from[1]}) close(end);
      execl(python, python, script, "tflite", static_cast<char*>(nullptr));
      _exit(127);
    }
    close(to[0]);
    close(from[1]);
    out_ = fdopen(to[1], "w");
    in_ = fdopen(from[0], "r");
  }

  ~Server() {
    fclose(out_);
    fclose(in_);
    wait(nullptr);
  }

  void byte(char value) { write(std::string(1, value)); }

  void number(std::int64_t value) {
    std::string data;
    for (int shift = 24; shift >= 0; shift -= 8) data += char(value >> shift & 255);
    write(data);
  }

  void text(const std::string& value) { write(std::string{char(value.size() >> 8), char(value.size() & 255)} + value); }

  void header(const std::string& dtype, const std::vector<std::int64_t>& shape) {
    text(dtype);
    number(std::int64_t(shape.size()));
    for (const auto size : shape) number(size);
  }

  void bytes(const std::string& data) {
    number(std::int64_t(data.size()));
    write(data);
  }

  void flush() { fflush(out_); }

  std::int32_t read_number() {
    std::uint32_t value = 0;
    for (const char c : read(4)) value = value << 8 | std::uint8_t(c);
    return std::int32_t(value);
  }

  std::string read_text() {
    const auto size = read(2);
    return read(std::size_t(std::uint8_t(size[0])) << 8 | std::uint8_t(size[1]));
  }

  std::string read_bytes() { return read(std::size_t(read_number())); }

 private:
  void write(const std::string& data) {
    if (fwrite(data.data(), 1, data.size(), out_) != data.size()) throw Error("the server of stages has ended");
  }

  std::string read(std::size_t size) {
    std::string data(size, '\0');
    if (fread(&data[0], 1, size, in_) != size) throw Error("the server of stages has ended");
    return data;
  }

  FILE *out_ = nullptr, *in_ = nullptr;
};

class ServedStage : public StageFile {
 public:
  ServedStage(std::shared_ptr<Server> server, const std::string& data, const std::vector<Binding>& inputs,
              const std::vector<Binding>& outputs)
      : server_(std::move(server)) {
    server_->byte('o');
    for (const auto* bindings : {&inputs, &outputs}) {
      server_->number(std::int64_t(bindings->size()));
      for (const auto& binding : *bindings) {
        server_->text(binding.port);
        server_->text(binding.tensor);
        server_->header(binding.dtype, binding.shape);
      }
    }
    server_->bytes(data);
    server_->flush();
    number_ = server_->read_number();
  }

  Values run(const Values& feeds) override {
    server_->byte('r');
    server_->number(number_);
    server_->number(std::int64_t(feeds.size()));
    for (const auto& [name, feed] : feeds) {
      server_->text(name);
      server_->header(feed.dtype, feed.shape);
      server_->bytes(feed.data);
    }
    server_->flush();
    Values results;
    for (auto left = server_->read_number(); left > 0; --left) {
      const auto name = server_->read_text();
      Tensor& tensor = results[name];
      tensor.dtype = server_->read_text();
      for (auto rank = server_->read_number(); rank > 0; --rank) tensor.shape.push_back(server_->read_number());
      tensor.data = server_->read_bytes();
    }
    return results;
  }

 private:
  std::shared_ptr<Server> server_;
  std::int32_t number_ = 0;
};

std::unique_ptr<StageFile> open(const std::string& data, const std::vector<Binding>& inputs,
                                const std::vector<Binding>& outputs, int) {
  static std::weak_ptr<Server> running;
  auto server = running.lock();
  if (!server) running = server = std::make_shared<Server>();
  return std::make_unique<ServedStage>(std::move(server), data, inputs, outputs);
}

const bool added = openers().emplace("tflite", Opener{".tflite", open}).second;

}  // namespace
}  // namespace edgefuse
