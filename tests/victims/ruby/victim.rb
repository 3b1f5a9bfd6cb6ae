#!/usr/bin/env ruby
# The victim in Ruby: TCPServer with a thread per connection, Net::HTTP, Socket. The contract is in ../README.md.
require 'net/http'
require 'socket'

NAME = 'ruby'

def show(address)
  address.ipv6? ? "[#{address.ip_address}]:#{address.ip_port}" : "#{address.ip_address}:#{address.ip_port}"
end

def talk(client)
  peer = show(client.remote_address)
  while (line = client.gets)
    method, path, version = line.split
    headers = {}
    while (header = client.gets&.chomp) && !header.empty?
      key, value = header.split(':', 2)
      headers[key.downcase] = value.strip
    end
    client.read(headers['content-length'].to_i)
    close = version == 'HTTP/1.0' || headers['connection']&.casecmp?('close')
    body = %({"lang":"#{NAME}","peer":"#{peer}","method":"#{method}","path":"#{path}"})
    client.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Victim: #{NAME}\r\n" \
                 "Content-Length: #{body.bytesize}\r\nConnection: #{close ? 'close' : 'keep-alive'}\r\n\r\n#{body}")
    break if close
  end
rescue SystemCallError
  # the client is gone
ensure
  client.close
end

def serve(port)
  server = TCPServer.new('0.0.0.0', port.to_i)
  puts "listening #{port}"
  $stdout.flush
  loop { Thread.new(server.accept) { |client| talk(client) } }
end

def get(url)
  uri = URI(url)
  # nil: no proxy, whatever the environment says
  response = Net::HTTP.start(uri.hostname, uri.port, nil) { |http| http.request_get(uri.request_uri) }
  puts response.code
  $stdout.write(response.body)
end

def resolve(name)
  Addrinfo.getaddrinfo(name, nil, nil, :STREAM).each { |address| puts address.ip_address }
end

def connect(host, port)
  Socket.tcp(host, port.to_i) { |sock| puts "ok #{show(sock.local_address)} -> #{show(sock.remote_address)}" }
end

def file(path)
  $stdout.binmode.write(File.binread(path))
end

def ls(dir)
  puts Dir.children(dir).sort
end

def stat(path)
  stat = File.stat(path)
  type = { 'file' => 'file', 'directory' => 'dir', 'link' => 'link' }.fetch(stat.ftype, 'other')
  puts format('%d %04o %s', stat.size, stat.mode & 0o7777, type)
end

command, *args = ARGV
unless %w[serve get resolve connect file ls stat].include?(command) && !args.empty?
  warn 'usage: victim serve PORT | get URL | resolve NAME | connect HOST PORT | file PATH | ls DIR | stat PATH'
  exit 2
end

begin
  send(command, *args)
rescue SystemCallError => e
  puts "error #{e.class.name.split('::').last}"
  exit 1
rescue SocketError => e # getaddrinfo's
  puts e.message.include?('Temporary failure') ? 'error EAI_AGAIN' : 'error NXDOMAIN'
  exit 1
end
