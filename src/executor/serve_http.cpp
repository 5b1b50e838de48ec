// The HTTP side of miq serve: which request goes where, within which limits, and what is written back.
#include <httplib.h>
#include <sys/socket.h>

#include <charconv>

#include "miq/core/error.h"
#include "miq/core/log.h"
#include "miq/core/text.h"
#include "miq/executor/serve.h"
#include "serve_connection.h"
#include "serve_engine.h"

namespace miq::executor {
namespace {

using Clock = std::chrono::steady_clock;
using httplib::Request;
using httplib::Response;

constexpr size_t kRequestsPerConnection = 1000, kSpareThreads = 128, kMaxWaiting = 256;
constexpr std::int64_t kHeldBodies = 16;  // bodies of full size that are held at once

// What httplib reads from and writes to.
class SocketStream : public httplib::Stream {
 public:
  explicit SocketStream(ClientSocket& socket) : socket_(socket) {}
  bool is_readable() const override { return true; }  // reads wait themselves
  bool is_writable() const override { return !socket_.peer_is_gone(); }
  ssize_t read(char* bytes, size_t size) override { return socket_.read(bytes, size); }
  ssize_t write(const char* bytes, size_t size) override { return socket_.write(bytes, size); }
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_.descriptor(); }

 private:
  ClientSocket& socket_;
};

// The request that this thread works on.
struct Current {
  ClientSocket* socket = nullptr;
  bool close = false;            // no further request on this connection
  bool counted = false;          // in ServerState::requests
  std::int64_t body_bytes = 0;   // in ServerState::body_bytes
};
thread_local Current current;

void set_json(Response& response, int status, const std::string& body) {
  response.status = status;
  response.set_content(body, "application/json");
}

void set_error(Response& response, const RequestError& error) {
  set_json(response, error.status, error_body(error));
  if (error.status == 429 || error.status == 503) response.set_header("Retry-After", "1");
  if (error.status == 401) response.set_header("WWW-Authenticate", "Bearer");
}

// An answer before the body was read: what comes next on the connection is not a request.
void refuse_unread(Response& response, const RequestError& error) {
  set_error(response, error);
  response.set_header("Connection", "close");
  current.close = true;
}

// A browser lets any page send other types anywhere, but not this one.
bool is_json(const std::string& content_type) {
  std::string type = content_type.substr(0, content_type.find(';'));
  type.erase(type.find_last_not_of(" \t") + 1);
  std::transform(type.begin(), type.end(), type.begin(), [](unsigned char c) { return std::tolower(c); });
  return type == "application/json";
}

// Takes as long whatever the key is.
bool same_key(const std::string& given, const std::string& wanted) {
  unsigned difference = given.size() == wanted.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(wanted[i % wanted.size()]);
  return difference == 0;
}

class HttpServer : public httplib::Server {
 public:
  HttpServer(ServeEngine& engine, const ServedModel& model, const ServeOptions& options)
      : engine_(engine), model_(model), options_(options), texts_(*model.tokenizer) {
    limits_.body_bytes = options.max_body;
    limits_.answer_seconds = options.timeout + 120;
    started_ = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
    new_task_queue = [this] { return new Threads(static_cast<size_t>(options_.max_queue) + kSpareThreads, state_); };
    set_tcp_nodelay(true);
    set_keep_alive_max_count(kRequestsPerConnection);  // these two are what its answers tell
    set_keep_alive_timeout(static_cast<time_t>(limits_.idle_seconds));
    set_payload_max_length(static_cast<size_t>(options.max_body));
    set_socket_options([](socket_t socket) {  // httplib's own would share the port with another server
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    set_expect_100_continue_handler([this](const Request& request, Response& response) { return refuse(request, response) ? response.status : 100; });
    set_pre_routing_handler([this](const Request& request, Response& response) {
      return refuse(request, response) || tell_model(request, response) ? HandlerResponse::Handled : HandlerResponse::Unhandled;
    });
    set_error_handler([](const Request&, Response& response) { finish_error(response); });
    set_exception_handler([](const Request&, Response& response, std::exception_ptr) { refuse_unread(response, RequestError(500, "the server failed")); });
    Get("/health", [this](const Request&, Response& response) {
      if (engine_.refuses()) return set_json(response, 503, R"({"status":"shutting down"})");
      set_json(response, 200, R"({"status":"ok"})");
    });
    Get("/v1/models", [this](const Request&, Response& response) { set_json(response, 200, models_body(model_, started_)); });
    for (const bool chat : {false, true})
      Post(chat ? "/v1/chat/completions" : "/v1/completions", [this, chat](const Request& request, Response& response, const httplib::ContentReader& reader) {
        try {
          complete(chat, request, response, reader);
        } catch (const RequestError& error) {
          set_error(response, error);
          if (current.close) response.set_header("Connection", "close");
        } catch (const std::bad_alloc&) {
          set_error(response, RequestError(503, "out of memory"));
        }
      });
  }

  ServerState& state() { return state_; }
  /// httplib listens with room for five connections only.
  void widen_backlog() { ::listen(svr_sock_, 512); }

 private:
  class Threads : public httplib::TaskQueue {
   public:
    Threads(size_t count, ServerState& state) : threads_(count, kMaxWaiting, state) {}
    void enqueue(std::function<void()> serve) override {
      threads_.enqueue([serve = std::move(serve)](bool turn_away) {
        turned_away = turn_away;
        serve();
        turned_away = false;
      });
    }
    void shutdown() override { threads_.shutdown(); }
    static thread_local bool turned_away;

   private:
    ConnectionThreads threads_;
  };

  bool process_and_close_socket(socket_t descriptor) override {
    ClientSocket socket(descriptor, state_, limits_);
    if (Threads::turned_away) {
      const std::string body = error_body(RequestError(503, "too many connections; try again later"));
      const std::string answer = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: " +
                                 std::to_string(body.size()) + "\r\n\r\n" + body;
      (void)::send(descriptor, answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      socket.close(/*patience=*/0);
      return false;
    }
    SocketStream stream(socket);
    for (size_t left = kRequestsPerConnection; left > 0 && socket.wait_for_request(); --left) {
      current = {};
      current.socket = &socket;
      bool closed = false;
      const bool ok = process_request(stream, /*close_connection=*/left == 1 || state_.stopping, closed, [](Request& request) {
        request.ranges.clear();  // of a file that does not change; and compression would hold events back
        request.headers.erase("Accept-Encoding");
      });
      if (current.counted) --state_.requests;
      state_.body_bytes -= current.body_bytes;
      if (!ok || closed || current.close) break;
    }
    current = {};
    socket.close();
    return true;
  }

  // Errors that httplib found itself have no body yet.
  static void finish_error(Response& response) {
    if (!response.body.empty()) return;
    std::string what = "malformed request";
    if (current.socket && current.socket->failure() == ClientSocket::Failure::timeout) {
      response.status = 408;
      what = "the request did not come in time";
    } else if (current.socket && current.socket->failure() == ClientSocket::Failure::too_large) {
      response.status = 431;
      what = "the header is too large";
    } else if (response.status == 404) {
      what = "no such path";
    } else if (response.status == 414) {
      what = "the address is too long";
    }
    refuse_unread(response, RequestError(response.status, what));
  }

  // What can be said from the header alone. True when the answer is made.
  bool refuse(const Request& request, Response& response) const {
    const bool completion = request.path == "/v1/completions" || request.path == "/v1/chat/completions";
    const bool readable = request.path == "/health" || request.path == "/v1/models" || request.path.rfind("/v1/models/", 0) == 0;
    const auto no = [&](const RequestError& error) {
      refuse_unread(response, error);
      return true;
    };
    if (!completion && !readable) return no(RequestError(404, "there is no '" + request.path + "'; POST /v1/completions, POST /v1/chat/completions, GET /v1/models, GET /health"));
    if (!options_.api_key.empty() && request.path != "/health") {
      const std::string given = request.get_header_value("Authorization");
      if (given.rfind("Bearer ", 0) != 0 || !same_key(given.substr(7), options_.api_key))
        return no(RequestError(401, "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'", "", "invalid_api_key"));
    }
    if (completion ? request.method != "POST" : request.method != "GET" && request.method != "HEAD") {
      response.set_header("Allow", completion ? "POST" : "GET, HEAD");
      return no(RequestError(405, request.path + " takes " + (completion ? "POST" : "GET") + ", not " + request.method));
    }
    if (!completion) {
      if (request.has_header("Content-Length") || request.has_header("Transfer-Encoding")) current.close = true;  // a body nobody reads
      return false;
    }
    const std::string type = request.get_header_value("Content-Type"), encoding = request.get_header_value("Content-Encoding");
    if (!is_json(type))
      return no(RequestError(415, "the body must be 'Content-Type: application/json', not '" + type + "'"));
    if (!encoding.empty() && encoding != "identity") return no(RequestError(415, "the body must not be compressed"));
    const size_t lengths = request.get_header_value_count("Content-Length"), codings = request.get_header_value_count("Transfer-Encoding");
    if (lengths == 0 && codings == 0) return no(RequestError(411, "the body has no length; send Content-Length, or Transfer-Encoding: chunked"));
    if (lengths + codings > 1) return no(RequestError(400, "the body's length is given more than once"));
    if (codings == 1 && request.get_header_value("Transfer-Encoding") != "chunked") return no(RequestError(501, "the one transfer encoding is chunked"));
    if (lengths == 1) {
      const std::string text = request.get_header_value("Content-Length");
      std::uint64_t length = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
      if (end != text.data() + text.size() || text.empty() || error == std::errc::invalid_argument)
        return no(RequestError(400, "'" + text + "' is not a Content-Length"));
      if (error != std::errc() || length > static_cast<std::uint64_t>(options_.max_body)) return no(too_large());
    }
    if (engine_.refuses()) return no(RequestError(503, "the server is shutting down", "", "shutting_down"));
    return false;
  }

  // GET /v1/models/NAME, whatever characters and slashes the name has: httplib's own patterns recurse for each of them.
  bool tell_model(const Request& request, Response& response) const {
    const std::string prefix = "/v1/models/";
    if (request.path.rfind(prefix, 0) != 0) return false;
    try {
      set_json(response, 200, model_body(request.path.substr(prefix.size()), model_, started_));
    } catch (const RequestError& error) {
      set_error(response, error);
    }
    return true;
  }

  RequestError too_large() const {
    return RequestError(413, "the body is larger than " + std::to_string(options_.max_body) + " bytes; send fewer prompts at once", "", "body_too_large");
  }

  std::string read_body(const httplib::ContentReader& reader) {
    current.socket->begin_body();
    std::string body;
    bool fits = true, busy = false;
    const bool whole = reader([&](const char* bytes, size_t size) {
      fits = body.size() + size <= static_cast<size_t>(options_.max_body);
      current.body_bytes += static_cast<std::int64_t>(size);
      busy = (state_.body_bytes += static_cast<std::int64_t>(size)) > kHeldBodies * options_.max_body;
      if (fits && !busy) body.append(bytes, size);
      return fits && !busy;
    });
    if (whole) return body;
    current.close = true;
    const ClientSocket::Failure failure = current.socket->failure();
    if (!fits || failure == ClientSocket::Failure::too_large) throw too_large();
    if (busy) throw RequestError(503, "too many large requests at once; try again later");
    if (failure == ClientSocket::Failure::timeout) throw RequestError(408, "the body did not come in time");
    throw RequestError(400, "the body ended before its length, or its chunks are malformed");
  }

  // One body at a time is a JSON document and one answer is made: both take several times the memory of their text.
  CompletionRequest parse(bool chat, const std::string& body) {
    const std::lock_guard<std::mutex> lock(json_mutex_);
    return chat ? parse_chat(body, model_) : parse_completion(body, model_);
  }

  // The job's next part. Gives up when the client is gone or the time is over.
  ServeJob::State next(ServeJob& job, Delta& delta, Clock::time_point deadline) const {
    for (;;) {
      if (current.socket->peer_is_gone()) throw RequestError(499, "the client went away");
      const ServeJob::State state = job.next(delta, std::chrono::milliseconds(50));
      if (state == ServeJob::State::done) return state;
      if (Clock::now() > deadline) throw RequestError(504, "the answer took longer than " + format_seconds(options_.timeout), "", "timeout");
      if (state == ServeJob::State::delta) return state;
    }
  }

  void complete(bool chat, const Request& request, Response& response, const httplib::ContentReader& reader) {
    ++state_.requests;
    current.counted = true;
    const Clock::time_point deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.timeout));
    std::string body = read_body(reader);
    CompletionRequest parsed = parse(chat, body);
    std::string().swap(body);
    state_.body_bytes -= std::exchange(current.body_bytes, 0);
    const std::shared_ptr<ServeJob> job = engine_.submit(std::move(parsed));
    const struct Guard {  // whoever leaves takes the job along
      ServeJob* job;
      ~Guard() {
        if (job) job->cancel();
      }
    } guard{job->request().stream ? nullptr : job.get()};
    const AnswerHead head = AnswerHead::make(chat, model_.names[0]);
    if (job->request().stream) return stream(job, head, deadline, request, response);
    std::vector<Delta> deltas;
    for (Delta delta; next(*job, delta, deadline) == ServeJob::State::delta; delta = {}) deltas.push_back(std::move(delta));
    const std::lock_guard<std::mutex> lock(json_mutex_);
    set_json(response, 200, answer_body(job->request(), head, deltas, job->usage(), texts_));
  }

  void stream(const std::shared_ptr<ServeJob>& job, const AnswerHead& head, Clock::time_point deadline, const Request& request, Response& response) {
    const auto first = std::make_shared<std::optional<Delta>>(Delta{});  // waited for here, so that an error still has a status
    try {
      next(*job, **first, deadline);
    } catch (...) {
      job->cancel();
      throw;
    }
    const auto begun = std::make_shared<std::vector<bool>>(static_cast<size_t>(job->request().choices()), false);
    const auto provider = [this, job, head, deadline, first, begun](size_t, httplib::DataSink& sink) {
      const auto write = [&](const std::string& text) { return sink.write(text.data(), text.size()); };
      const auto end = [&](const std::string& text) {
        if (!write(text + "data: [DONE]\n\n")) return false;
        sink.done();
        return true;
      };
      try {
        Delta delta;
        if (first->has_value())
          delta = *std::exchange(*first, std::nullopt);
        else if (next(*job, delta, deadline) == ServeJob::State::done)
          return end(job->request().include_usage ? usage_event(job->request(), head, job->usage()) : "");
        const auto choice = static_cast<size_t>(delta.choice);
        const bool opens = !(*begun)[choice];
        (*begun)[choice] = true;
        return write(answer_event(job->request(), head, delta, opens, texts_));
      } catch (const RequestError& error) {
        return error.status != 499 && end("data: " + error_body(error) + "\n\n");
      }
    };
    const auto release = [job](bool) { job->cancel(); };
    response.status = 200;
    response.set_header("Cache-Control", "no-cache");
    if (request.version == "HTTP/1.0") {
      current.close = true;
      response.set_content_provider("text/event-stream", provider, release);
    } else {
      response.set_chunked_content_provider("text/event-stream", provider, release);
    }
  }

  ServeEngine& engine_;
  const ServedModel& model_;
  const ServeOptions& options_;
  const TokenTexts texts_;
  ConnectionLimits limits_;
  ServerState state_;
  std::mutex json_mutex_;
  std::int64_t started_ = 0;
};

thread_local bool HttpServer::Threads::turned_away = false;

}  // namespace

void serve(model::LanguageModel& model, const dataset::Tokenizer& tokenizer, const ServeOptions& options,
           const std::function<void(int port)>& listening, const std::function<int()>& interrupts) {
  ServedModel served;
  served.names = options.names;
  served.tokenizer = &tokenizer;
  served.vocab_size = model.architecture().vocab_size;
  served.max_context = options.max_context > 0 ? options.max_context : model.architecture().max_position_embeddings;
  served.chat = options.chat;
  served.no_chat = options.no_chat;
  EngineOptions engine_options;
  engine_options.max_queue = options.max_queue;
  model.hold_blocks_if_they_fit();
  ServeEngine engine(model, tokenizer, engine_options);
  HttpServer server(engine, served, options);
  int port = options.port;
  if (port == 0)
    port = server.bind_to_any_port(options.host);
  else if (!server.bind_to_port(options.host, port))
    port = -1;
  if (port < 0)
    throw Error(ErrorKind::io, "cannot listen on " + options.host + " port " + std::to_string(options.port), "", "choose another --port (0: a free one) or --host");
  server.widen_backlog();
  std::atomic<bool> ended{false};
  std::thread accepting([&] {
    server.listen_after_bind();
    ended = true;
  });
  const auto tick = [] { std::this_thread::sleep_for(std::chrono::milliseconds(50)); };
  try {
    while (!server.is_running() && !ended) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    listening(port);
    while (interrupts() == 0 && !ended) tick();
    const bool broken = ended;
    engine.refuse_new();
    if (server.state().requests > 0) log_info("shutting down: running requests finish; once more to end them");
    while (server.state().requests > 0 && interrupts() < 2 && !ended) tick();
    server.state().aborting = server.state().requests > 0;
    server.state().stopping = true;
    server.stop();
    accepting.join();
    if (broken) throw Error(ErrorKind::io, "the listening socket failed", options.host + ":" + std::to_string(port));
  } catch (...) {
    if (accepting.joinable()) {
      server.state().aborting = server.state().stopping = true;
      server.stop();
      accepting.join();
    }
    throw;
  }
}

}  // namespace miq::executor
